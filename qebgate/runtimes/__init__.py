"""Runtime profiles and replay in the installed interpreter."""
