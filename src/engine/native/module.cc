// Loaded by Node as an addon: it registers the operations with this process's TensorFlow.
#include <node_api.h>

#include <cstdlib>
#include <stdexcept>

#include "kernels.h"
#include "pool.h"

extern "C" void scipy_openblas_set_num_threads(int);

namespace {

/** start(threads): registers everything, once per process. */
napi_value start(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  int32_t threads = 1;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  napi_get_value_int32(env, argument, &threads);
  try {
    realm::setThreads(threads);
    scipy_openblas_set_num_threads(1);  // each of our threads multiplies its own tiles
    realm::registerAll();
  } catch (const std::exception& e) {
    napi_throw_error(env, nullptr, e.what());
  }
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "start", NAPI_AUTO_LENGTH, start, nullptr, &function);
  napi_set_named_property(env, exports, "start", function);
  return exports;
}
