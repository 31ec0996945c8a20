#!/bin/sh
# Starts Triton with this repository's models. Who has $PURIFY_ADMIN_KEY may load and unload models, all others are
# refused: over HTTP it is the header `admin-key`, over gRPC `triton-grpc-protocol-admin-key`.
set -eu
: "${PURIFY_ADMIN_KEY:?expected a secret, without which models could be replaced over the network}"
cd "$(dirname "$0")"
set -- --model-repository="$PWD" --model-control-mode=explicit --disable-auto-complete-config \
    --http-restricted-api="model-repository,shared-memory,trace,logging:admin-key=$PURIFY_ADMIN_KEY" \
    --grpc-restricted-protocol="model-repository,shared-memory,trace,logging:admin-key=$PURIFY_ADMIN_KEY" "$@"
for config in */config.pbtxt; do
    set -- --load-model="${config%/*}" "$@"
done
exec "${TRITONSERVER:-tritonserver}" "$@"
