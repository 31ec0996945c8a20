#!/bin/sh
# Build TensorRT engines of this bundle's graphs for this device, in the current folder; leave the bundle as it is.
# Run by `sh .../integrations/trtexec.sh`. Types are in the graphs: --stronglyTyped asks TensorRT 10 to keep them, and
# 11 always does. served.* are for purify.cpp and other programs, deepstream.* for config_infer_purify.txt.
set -eu
PATH=$PATH:/usr/src/tensorrt/bin
bundle=$(cd "$(dirname "$0")/.." && pwd)
