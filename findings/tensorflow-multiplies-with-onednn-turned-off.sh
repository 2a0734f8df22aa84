#!/usr/bin/env bash
# tensorflow-cpu 2.21.0 (Linux on x64), 2026-11-30: with TF_ENABLE_ONEDNN_OPTS=0, matmul still computes with oneDNN.
#
# Expected: the variable turns oneDNN off, as TensorFlow's log line at start says of its "custom operations"; then the last digits of a
#           product do not depend on which kernels oneDNN chooses for a processor, and oneDNN's faults are not met.
# Happens:  the variable turns off oneDNN's own operations only. Eigen's products, which then run, are compiled to call oneDNN's sgemm for
#           their inner blocks, as oneDNN's own log shows. Another variable that is hardly documented,
#           TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL=0, makes Eigen multiply by itself. TensorFlow.js's Node package is the same library.
# Seen:     oneDNN off: calls oneDNN | and Eigen's contraction kernel off: does not
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0
cat > product.py <<'PY'
import tensorflow as tf
print(float(tf.reduce_sum(tf.matmul(tf.ones([64, 128]), tf.ones([128, 256])))))
PY
calls() {
  env "$@" TF_ENABLE_ONEDNN_OPTS=0 ONEDNN_VERBOSE=2 TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES= env/bin/python product.py > log
  grep -q '^2097152.0$' log
  if grep -q 'exec,cpu,gemm_api' log; then echo 'calls oneDNN'; else echo 'does not'; fi
}
seen="oneDNN off: $(calls TF_ENABLE_ONEDNN_OPTS=0) | and Eigen's contraction kernel off: $(calls TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL=0)"
echo "$seen"
[ "$seen" = "oneDNN off: calls oneDNN | and Eigen's contraction kernel off: does not" ]
