#include "output.h"

#include <cstdlib>
#include <new>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "op.h"

// Large outputs are in memory of malloc's. TensorFlow takes memory from posix_memalign, and glibc before version 2.38 finds no
// freed block of that for another one of the same size: the next one is cut from a larger block, or the heap grows. A step then
// took up to twice the memory that it used.
//
// Freed memory is kept. glibc gives the end of its heap, and each block above 32 MB, back to the system as soon as they are free;
// the next kernel then takes them again, and the system clears each page of them: half of the time of embedding with 2 layers of 128.

namespace realm {
namespace {

/** In bytes. TensorFlow's own way serves for less. */
constexpr size_t LARGE = 1 << 16;

/** Where TensorFlow's tensors start; it copies one that starts elsewhere. */
constexpr size_t ALIGNMENT = 64;

}  // namespace

void keepFreedMemory() {
#if defined(__GLIBC__)
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
#endif
}

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
