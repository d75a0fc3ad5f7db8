#!/bin/sh
# Compares exported models with ONNX Runtime, in a fresh Python environment.
#
#   scripts/check-onnx.sh GRAFT F32.onnx INT8.onnx DATA [WORK]
#
# GRAFT is the program; DATA is a folder with one folder for each class. Shows that onnx.checker accepts both files, and
# on how many pictures ONNX Runtime gives the class that graft gives, how many each has right and how fast each is; exits
# with 1 below 300/300 and 295/300 in shares.
set -eu
[ $# -ge 4 ] || { sed -n '2,8p' "$0"; exit 2; }
work=${5:-$(mktemp -d)}
here=$(cd "$(dirname "$0")" && pwd)
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet -r "$here/check-onnx/requirements.txt"
exec "$work/venv/bin/python" "$here/check-onnx/check.py" "$@"
