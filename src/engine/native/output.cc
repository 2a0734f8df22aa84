#include <cstdlib>
#include <new>

#include "op.h"

// Large outputs are in memory of malloc's. TensorFlow takes memory from posix_memalign, and glibc before version 2.38 finds no
// freed block of that for another one of the same size: the next one is cut from a larger block, or the heap grows. A step then
// took up to twice the memory that it used.

namespace realm {
namespace {

/** In bytes. TensorFlow's own way serves for less. */
constexpr size_t LARGE = 1 << 16;

/** Where TensorFlow's tensors start; it copies one that starts elsewhere. */
constexpr size_t ALIGNMENT = 64;

}  // namespace

TF_Tensor* allocateOutput(TF_OpKernelContext* context, int i, const std::vector<int64_t>& shape, size_t bytes,
                          TF_Status* status) {
  const TF_DataType type = TF_ExpectedOutputDataType(context, i);
  const int axes = static_cast<int>(shape.size());
  if (bytes < LARGE) return TF_AllocateOutput(context, i, type, shape.data(), axes, bytes, status);
  void* block = std::malloc(bytes + ALIGNMENT - 1);
  if (!block) throw std::bad_alloc();
  const uintptr_t start = (reinterpret_cast<uintptr_t>(block) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  const auto release = [](void*, size_t, void* block) { std::free(block); };
  TF_Tensor* tensor = TF_NewTensor(type, shape.data(), axes, reinterpret_cast<void*>(start), bytes, release, block);
  TF_SetOutput(context, i, tensor, status);
  return tensor;
}

}  // namespace realm
