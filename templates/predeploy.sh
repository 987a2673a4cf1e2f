#!/usr/bin/env bash
# Deploy only what passes the policy: put this before whatever ships the model.
#
#   predeploy.sh [POLICY] && scp model_int8.tflite device:
#
# POLICY defaults to qebgate.yaml here or in a folder above. To check the very file that is about to be shipped, name it:
#
#   QEBGATE_SET=models.digits.quantized=build/digits_int8.tflite predeploy.sh
#
# QEBGATE_RESULT (default: qebgate-result.json) gets the JSON result, to be kept with the release.
# Ends with qebgate's exit code; anything but 0 means: do not deploy.
set -euo pipefail

result="${QEBGATE_RESULT:-qebgate-result.json}"
arguments=(--format rich --format "json=$result")
if [[ -n "${QEBGATE_SET:-}" ]]; then arguments+=(--set "$QEBGATE_SET"); fi
if [[ $# -gt 0 ]]; then arguments+=(-- "$1"); fi

code=0
qebgate check "${arguments[@]}" || code=$?
case "$code" in
  0) echo "predeploy: passed; the result is in $result" ;;
  1) echo "predeploy: the quantized model breaks the policy; not deploying" >&2 ;;
  3) echo "predeploy: neither proven nor refuted, and the policy says that this is not enough; not deploying" >&2 ;;
  *) echo "predeploy: the check could not be made (exit code $code); not deploying" >&2 ;;
esac
exit "$code"
