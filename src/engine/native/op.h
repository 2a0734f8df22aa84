// The part of TensorFlow's C interface (tensorflow/c/ops.h and kernels.h) that the kernels of this folder need. A kernel
// is a struct with `attributes(Attributes&)` and `run(Call&)`; it throws if its inputs are wrong.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

namespace realm {

inline void expect(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

struct Status {
  TF_Status* status = TF_NewStatus();
  ~Status() { TF_DeleteStatus(status); }
  void check() const {
    if (TF_GetCode(status) != TF_OK) throw std::runtime_error(TF_Message(status));
  }
};

/** An input or output tensor of a kernel; `T` is float or int32_t. */
template <class T>
struct Tensor {
  T* data = nullptr;
  std::vector<int64_t> shape;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t dim(size_t axis) const {
    expect(axis < shape.size(), "an input has too few axes");
    return shape[axis];
  }
};

/** Throws unless all numbers of a list are from `first` up to, but not including, `end`. */
inline void expectWithin(const Tensor<const int32_t>& list, int64_t first, int64_t end, const char* what) {
  for (int64_t i = 0, n = list.size(); i < n; i++) expect(list.data[i] >= first && list.data[i] < end, what);
}

class Attributes {
 public:
  explicit Attributes(TF_OpKernelConstruction* construction) : construction_(construction) {}
  float number(const char* name) {
    float value;
    TF_OpKernelConstruction_GetAttrFloat(construction_, name, &value, status_.status);
    status_.check();
    return value;
  }
  int32_t integer(const char* name) {
    int32_t value;
    TF_OpKernelConstruction_GetAttrInt32(construction_, name, &value, status_.status);
    status_.check();
    return value;
  }

 private:
  TF_OpKernelConstruction* construction_;
  Status status_;
};

/** Output `i` of a kernel, of this shape: output.cc, and in WebAssembly ../wasm/host.cc. */
TF_Tensor* allocateOutput(TF_OpKernelContext* context, int i, const std::vector<int64_t>& shape, size_t bytes,
                          TF_Status* status);

/** One execution of a kernel. */
class Call {
 public:
  explicit Call(TF_OpKernelContext* context) : context_(context) {}
  ~Call() {
    for (TF_Tensor* t : held_) TF_DeleteTensor(t);
  }
  int inputs() const { return TF_NumInputs(context_); }
  template <class T = float>
  Tensor<const T> in(int i) {
    Tensor<T> t = mutableInput<T>(i);
    return {t.data, std::move(t.shape)};
  }
  /** An input that the kernel changes in place: only for state that nothing else shares. */
  template <class T = float>
  Tensor<T> mutableInput(int i) {
    TF_Tensor* t;
    TF_GetInput(context_, i, &t, status_.status);
    status_.check();
    return hold<T>(t);
  }
  template <class T = float>
  Tensor<T> out(int i, const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    TF_Tensor* t = allocateOutput(context_, i, shape, n * sizeof(T), status_.status);
    status_.check();
    return hold<T>(t);
  }

 private:
  template <class T>
  Tensor<T> hold(TF_Tensor* t) {
    held_.push_back(t);
    Tensor<T> result{static_cast<T*>(TF_TensorData(t)), {}};
    for (int i = 0; i < TF_NumDims(t); i++) result.shape.push_back(TF_Dim(t, i));
    return result;
  }
  TF_OpKernelContext* context_;
  Status status_;
  std::vector<TF_Tensor*> held_;
};

/** Registers an operation with its kernel for the CPU. Inputs, outputs and attributes are written as in TensorFlow: `x: float`. */
template <class Kernel>
void registerOp(const char* name, std::initializer_list<const char*> inputs,
                std::initializer_list<const char*> outputs, std::initializer_list<const char*> attributes) {
  Status status;
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  for (const char* a : attributes) TF_OpDefinitionBuilderAddAttr(op, a);
  for (const char* i : inputs) TF_OpDefinitionBuilderAddInput(op, i);
  for (const char* o : outputs) TF_OpDefinitionBuilderAddOutput(op, o);
  TF_OpDefinitionBuilderSetIsStateful(op, true);  // TensorFlow must not reorder, merge or skip it
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, [](TF_ShapeInferenceContext* c, TF_Status* s) {
    TF_ShapeInferenceContextSetUnknownShape(c, s);
  });
  TF_RegisterOpDefinition(op, status.status);
  status.check();

  auto create = [](TF_OpKernelConstruction* construction) -> void* {
    auto kernel = std::make_unique<Kernel>();
    try {
      Attributes attributes(construction);
      kernel->attributes(attributes);
    } catch (const std::exception& e) {
      Status failed;
      TF_SetStatus(failed.status, TF_INVALID_ARGUMENT, e.what());
      TF_OpKernelConstruction_Failure(construction, failed.status);
    }
    return kernel.release();
  };
  auto compute = [](void* kernel, TF_OpKernelContext* context) {
    try {
      Call call(context);
      static_cast<Kernel*>(kernel)->run(call);
    } catch (const std::exception& e) {
      Status failed;
      TF_SetStatus(failed.status, TF_INVALID_ARGUMENT, e.what());
      TF_OpKernelContext_Failure(context, failed.status);
    }
  };
  auto remove = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  TF_KernelBuilder* builder = TF_NewKernelBuilder(name, "CPU", create, compute, remove);
  TF_RegisterKernelBuilder(name, builder, status.status);
  status.check();
}

}  // namespace realm
