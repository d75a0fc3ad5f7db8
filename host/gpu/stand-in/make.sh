#!/bin/sh
# Compiles the stand-in for CUDA's libraries into a folder: make.sh FOLDER [C++ compiler]. With LD_LIBRARY_PATH set to that
# folder graft takes it for a GPU.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=$1
cxx=${2:-${CXX:-c++}}
mkdir -p "$to"
cat "$here"/../src/kernels/common.cu "$here"/../src/kernels/elements.cu "$here"/../src/kernels/norm.cu \
    "$here"/../src/kernels/windows.cu "$here"/../src/kernels/steps.cu >"$to/graft.cu"
# The kernels whose threads wait for each other.
waits=" statistics moments settle settle_gradient add_blocks sum_pixels squares
 depthwise_weight_3_1 depthwise_weight_3_2 depthwise_weight_5_1 depthwise_weight_5_2 "
# KERNEL name(...), or KERNEL MACRO(side, stride) of the name macro_side_stride.
sed -n -e 's/^KERNEL \([a-z][a-z0-9_]*\)(.*/\1/p' -e 's/^KERNEL \([A-Z_]*\)(\([0-9]\), \([0-9]\))/\1_\2_\3/p' "$to/graft.cu" |
    tr '[:upper:]' '[:lower:]' | tr -d '\r' | while read -r name; do
    case " $(echo $waits) " in
    *" $name "*) echo "CALL($name, true)" ;;
    *) echo "CALL($name, false)" ;;
    esac
done >"$to/calls.inc"
options="-std=c++17 -O2 -fPIC -shared -Wno-unknown-pragmas -U_FORTIFY_SOURCE -fno-strict-aliasing -I$to"
"$cxx" $options -o "$to/kernels-f32.so" "$here/kernels.cpp" &
"$cxx" $options -DBFLOAT16 -o "$to/kernels-bf16.so" "$here/kernels.cpp"
"$cxx" $options -o "$to/libcuda.so" "$here/cuda.cpp" -ldl
wait
ln -sf libcuda.so "$to/libcublas.so"
ln -sf libcuda.so "$to/libnvrtc.so"
