"""Reports: the same result for people, programs and job summaries."""
