// Loaded by Node as an addon: it registers the operations with this process's TensorFlow.
#include <node_api.h>

#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "dense-bf16.h"
#include "kernels.h"
#include "output.h"
#include "pool.h"
#include "rank-sum.h"

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
    realm::keepFreedMemory();
    realm::setThreads(threads);
    scipy_openblas_set_num_threads(1);  // each of our threads multiplies its own tiles
    realm::registerAll();
    realm::registerDenseBf16();
    realm::registerRankSum();
  } catch (const std::exception& e) {
    napi_throw_error(env, nullptr, e.what());
  }
  return nullptr;
}

/** hasBf16(): whether the operations of dense-bf16.cc are there. */
napi_value hasBf16(napi_env env, napi_callback_info) {
  napi_value result;
  napi_get_boolean(env, realm::hasBf16(), &result);
  return result;
}

/** useSum(address): the function that adds up over all ranks, from `sumAddress` of mpi.cc. */
napi_value useSum(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  uint64_t address = 0;
  bool exact = false;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  if (napi_get_value_bigint_uint64(env, argument, &address, &exact) == napi_ok)
    realm::setSumOverRanks(reinterpret_cast<realm::SumOverRanks>(address));
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  for (const auto& [name, callback] : {std::pair{"start", start}, std::pair{"hasBf16", hasBf16}, std::pair{"useSum", useSum}}) {
    napi_value function;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
    napi_set_named_property(env, exports, name, function);
  }
  return exports;
}
