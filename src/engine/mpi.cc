// Loaded by Node as an addon: the few functions of MPI that data-parallel training needs (ranks.ts). The MPI library is
// opened at run time, so neither this addon nor the engine needs one to be built or loaded. It is called by the standard
// ABI of MPI 5.0 (chapter 20), which fixes the types of the functions and the values of the handles: any library with that
// ABI will do. The values are those of mpi_abi.h in MPICH 5.0.2. An MPI package for Node would be better, but there is none.
#include <dlfcn.h>
#include <node_api.h>

#include <algorithm>
#include <cstdint>
#include <string>

namespace {

typedef struct MPI_ABI_Comm* Comm;
typedef struct MPI_ABI_Datatype* Datatype;
typedef struct MPI_ABI_Op* Op;
typedef struct MPI_ABI_Request* Request;

const Comm WORLD = reinterpret_cast<Comm>(0x101);
const Op SUM = reinterpret_cast<Op>(0x21);
const Datatype FLOAT = reinterpret_cast<Datatype>(0x210);
const Datatype DOUBLE = reinterpret_cast<Datatype>(0x214);
const Datatype BYTE = reinterpret_cast<Datatype>(0x247);
const Datatype INT32 = reinterpret_cast<Datatype>(0x250);
void* const IN_PLACE = reinterpret_cast<void*>(1);
constexpr int THREAD_SERIALIZED = 2048;
constexpr int ABI_MAJOR = 1;
constexpr int MAX_ERROR_STRING = 512, MAX_LIBRARY_VERSION = 8192;

/** Elements in one call: MPI counts them with an int. */
constexpr size_t MOST = 1 << 28;

struct {
  int (*Abi_get_version)(int*, int*);
  int (*Init_thread)(int*, char***, int, int*);
  int (*Comm_rank)(Comm, int*);
  int (*Comm_size)(Comm, int*);
  int (*Get_library_version)(char*, int*);
  int (*Error_string)(int, char*, int*);
  int (*Iallreduce)(const void*, void*, int, Datatype, Op, Comm, Request*);
  int (*Test)(Request*, int*, void*);
  int (*Allreduce)(const void*, void*, int, Datatype, Op, Comm);
  int (*Bcast)(void*, int, Datatype, int, Comm);
  int (*Finalize)();
  int (*Abort)(Comm, int);
} mpi;

/** The sum that is under way, of one number of each rank; MPI writes it until `Test` says that it is done. */
int32_t sum;
Request request;

napi_value fail(napi_env env, const std::string& what) {
  napi_throw_error(env, nullptr, what.c_str());
  return nullptr;
}

/** False, with an exception for JavaScript, if a call of MPI failed. */
bool worked(napi_env env, int code) {
  if (code == 0) return true;
  char text[MAX_ERROR_STRING + 1] = "";
  int length = 0;
  mpi.Error_string(code, text, &length);
  fail(env, std::string("MPI: ") + text);
  return false;
}

template <class F>
bool find(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  return function != nullptr;
}

void set(napi_env env, napi_value object, const char* name, int value) {
  napi_value number;
  napi_create_int32(env, value, &number);
  napi_set_named_property(env, object, name, number);
}

/** start(path): opens the library and joins the other ranks. @returns { rank, size, library: its name and version } */
napi_value start(napi_env env, napi_callback_info info) {
  size_t count = 1, length = 0;
  napi_value argument, result, name;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  napi_get_value_string_utf8(env, argument, nullptr, 0, &length);
  std::string path(length + 1, '\0');
  napi_get_value_string_utf8(env, argument, &path[0], path.size(), &length);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return fail(env, dlerror());
  const bool complete =
      find(library, "MPI_Abi_get_version", mpi.Abi_get_version) && find(library, "MPI_Init_thread", mpi.Init_thread) &&
      find(library, "MPI_Comm_rank", mpi.Comm_rank) && find(library, "MPI_Comm_size", mpi.Comm_size) &&
      find(library, "MPI_Get_library_version", mpi.Get_library_version) &&
      find(library, "MPI_Error_string", mpi.Error_string) && find(library, "MPI_Iallreduce", mpi.Iallreduce) &&
      find(library, "MPI_Test", mpi.Test) && find(library, "MPI_Allreduce", mpi.Allreduce) &&
      find(library, "MPI_Bcast", mpi.Bcast) && find(library, "MPI_Finalize", mpi.Finalize) &&
      find(library, "MPI_Abort", mpi.Abort);
  int major = 0, minor = 0, threads = 0, rank = 0, size = 0;
  // A library with MPI functions of another ABI has other handles, and would crash.
  if (!complete || mpi.Abi_get_version(&major, &minor) != 0 || major != ABI_MAJOR)
    return fail(env, "has not the standard ABI of MPI 5");
  if (!worked(env, mpi.Init_thread(nullptr, nullptr, THREAD_SERIALIZED, &threads)) ||
      !worked(env, mpi.Comm_rank(WORLD, &rank)) || !worked(env, mpi.Comm_size(WORLD, &size)))
    return nullptr;
  std::string version(MAX_LIBRARY_VERSION + 1, '\0');
  int characters = 0;
  mpi.Get_library_version(&version[0], &characters);
  napi_create_object(env, &result);
  set(env, result, "rank", rank);
  set(env, result, "size", size);
  napi_create_string_utf8(env, version.c_str(), NAPI_AUTO_LENGTH, &name);
  napi_set_named_property(env, result, "library", name);
  return result;
}

/** beginCount(number): starts to add up one number of each rank, without waiting for them. */
napi_value beginCount(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  napi_get_value_int32(env, argument, &sum);
  worked(env, mpi.Iallreduce(IN_PLACE, &sum, 1, INT32, SUM, WORLD, &request));
  return nullptr;
}

/** counted(): the sum that `beginCount` started; undefined as long as not all ranks have begun. */
napi_value counted(napi_env env, napi_callback_info) {
  int done = 0;
  napi_value result = nullptr;
  if (worked(env, mpi.Test(&request, &done, nullptr)) && done) napi_create_int32(env, sum, &result);
  return result;
}

struct Values {
  char* data;
  size_t count, bytes;
  Datatype type;
};

/** The typed array in the first argument. */
bool valuesOf(napi_env env, napi_callback_info info, Values& values) {
  size_t count = 1;
  napi_value argument;
  napi_typedarray_type type;
  void* data;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  if (napi_get_typedarray_info(env, argument, &type, &values.count, &data, nullptr, nullptr) != napi_ok) return false;
  values.data = static_cast<char*>(data);
  values.type = type == napi_float32_array ? FLOAT : type == napi_float64_array ? DOUBLE : BYTE;
  values.bytes = type == napi_float32_array ? 4 : type == napi_float64_array ? 8 : 1;
  return type == napi_float32_array || type == napi_float64_array || type == napi_uint8_array;
}

/** Adds up numbers of all ranks, in place; the code of the first call of MPI that failed. */
int sumInPlace(char* data, size_t count, size_t bytes, Datatype type) {
  for (size_t at = 0; at < count; at += MOST) {
    const int n = static_cast<int>(std::min(MOST, count - at));
    const int code = mpi.Allreduce(IN_PLACE, data + at * bytes, n, type, SUM, WORLD);
    if (code != 0) return code;
  }
  return 0;
}

int sumFloats(float* values, int64_t count) {
  return sumInPlace(reinterpret_cast<char*>(values), count, sizeof(float), FLOAT);
}

/** sumAddress(): that of `sumFloats`, for native/rank-sum.cc. */
napi_value sumAddress(napi_env env, napi_callback_info) {
  napi_value result;
  napi_create_bigint_uint64(env, reinterpret_cast<uint64_t>(&sumFloats), &result);
  return result;
}

/** addUp(values): their sum over all ranks, in place; a Float32Array or Float64Array of the same length on each. */
napi_value addUp(napi_env env, napi_callback_info info) {
  Values v;
  if (!valuesOf(env, info, v) || v.type == BYTE) return fail(env, "expected numbers");
  worked(env, sumInPlace(v.data, v.count, v.bytes, v.type));
  return nullptr;
}

/** spread(values): those of rank 0, on every rank, in place; a typed array of the same length on each. */
napi_value spread(napi_env env, napi_callback_info info) {
  Values v;
  if (!valuesOf(env, info, v)) return fail(env, "expected numbers or bytes");
  for (size_t at = 0; at < v.count; at += MOST) {
    const int n = static_cast<int>(std::min(MOST, v.count - at));
    if (!worked(env, mpi.Bcast(v.data + at * v.bytes, n, v.type, 0, WORLD))) break;
  }
  return nullptr;
}

/** finish(): leaves the other ranks, when all do so. */
napi_value finish(napi_env env, napi_callback_info) {
  worked(env, mpi.Finalize());
  return nullptr;
}

/** abort(code): ends all ranks, this one too, with this exit code. */
napi_value abort(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  int32_t code = 1;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  napi_get_value_int32(env, argument, &code);
  mpi.Abort(WORLD, code);
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback function;
  } all[] = {{"start", start},   {"beginCount", beginCount}, {"counted", counted}, {"addUp", addUp},
             {"spread", spread}, {"sumAddress", sumAddress}, {"finish", finish},   {"abort", abort}};
  for (const auto& each : all) {
    napi_value function;
    napi_create_function(env, each.name, NAPI_AUTO_LENGTH, each.function, nullptr, &function);
    napi_set_named_property(env, exports, each.name, function);
  }
  return exports;
}
