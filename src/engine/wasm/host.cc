// TensorFlow's C interface for the kernels (see tensorflow/c/kernels.h), and what JavaScript calls.
#include "host.h"

#include "../native/kernels.h"
#include "../native/maths.h"

constexpr int MAX_ATTRIBUTES = 8, MAX_RANK = 4, MAX_OPERATIONS = 32, MAX_OUTPUTS = 8;

/** A tensor of a call; JavaScript writes those of the inputs. */
struct TF_Tensor {
  void* data;
  int32_t rank;
  int32_t dims[MAX_RANK];
};

/** One call of an operation as JavaScript writes it: attributes in the order of their registration, then the inputs. */
struct TF_OpKernelContext {
  union {
    int32_t integer;
    float number;
  } attributes[MAX_ATTRIBUTES];
  int32_t inputs;
  TF_Tensor input[];
};

namespace {

struct Operation {
  const char* attributes[MAX_ATTRIBUTES];
  int count;
  void* (*create)(TF_OpKernelConstruction*);
  void (*compute)(void*, TF_OpKernelContext*);
  void (*remove)(void*);
};

Operation operations[MAX_OPERATIONS];
int registered = 0;
TF_Tensor outputs[MAX_OUTPUTS];

}  // namespace

struct TF_OpKernelConstruction {
  const Operation* operation;
  const TF_OpKernelContext* call;

  int slot(const char* name) const {
    for (int i = 0; i < operation->count; i++) {
      const char *spec = operation->attributes[i], *letter = name;
      while (*letter && *letter == *spec) letter++, spec++;
      if (!*letter && *spec == ':') return i;
    }
    hostFail("a kernel asks for an attribute that it did not register");
  }
};

extern "C" {

// Errors never return a status: hostFail throws.
TF_Status* TF_NewStatus() { return nullptr; }
void TF_DeleteStatus(TF_Status*) {}
void TF_SetStatus(TF_Status*, TF_Code, const char*) {}
TF_Code TF_GetCode(const TF_Status*) { return TF_OK; }
const char* TF_Message(const TF_Status*) { return ""; }

void* TF_TensorData(const TF_Tensor* t) { return t->data; }
int TF_NumDims(const TF_Tensor* t) { return t->rank; }
int64_t TF_Dim(const TF_Tensor* t, int axis) { return t->dims[axis]; }
void TF_DeleteTensor(TF_Tensor*) {}

TF_OpDefinitionBuilder* TF_NewOpDefinitionBuilder(const char* name) {
  if (registered == MAX_OPERATIONS) hostFail("too many operations");
  operations[registered] = {};
  hostOperation(name);
  return reinterpret_cast<TF_OpDefinitionBuilder*>(&operations[registered++]);
}
void TF_OpDefinitionBuilderAddAttr(TF_OpDefinitionBuilder* builder, const char* spec) {
  auto* op = reinterpret_cast<Operation*>(builder);
  if (op->count == MAX_ATTRIBUTES) hostFail("too many attributes");
  op->attributes[op->count++] = spec;
  hostAttribute(spec);
}
void TF_OpDefinitionBuilderAddInput(TF_OpDefinitionBuilder*, const char*) {}
void TF_OpDefinitionBuilderAddOutput(TF_OpDefinitionBuilder*, const char*) {}
void TF_OpDefinitionBuilderSetIsStateful(TF_OpDefinitionBuilder*, bool) {}
void TF_OpDefinitionBuilderSetShapeInferenceFunction(TF_OpDefinitionBuilder*,
                                                     void (*)(TF_ShapeInferenceContext*, TF_Status*)) {}
void TF_ShapeInferenceContextSetUnknownShape(TF_ShapeInferenceContext*, TF_Status*) {}
void TF_RegisterOpDefinition(TF_OpDefinitionBuilder*, TF_Status*) {}

/** The kernel of the operation registered last. */
TF_KernelBuilder* TF_NewKernelBuilder(const char*, const char*, void* (*create)(TF_OpKernelConstruction*),
                                      void (*compute)(void*, TF_OpKernelContext*), void (*remove)(void*)) {
  Operation& op = operations[registered - 1];
  op.create = create;
  op.compute = compute;
  op.remove = remove;
  return nullptr;
}
void TF_RegisterKernelBuilder(const char*, TF_KernelBuilder*, TF_Status*) {}

void TF_OpKernelConstruction_GetAttrFloat(TF_OpKernelConstruction* c, const char* name, float* value, TF_Status*) {
  *value = c->call->attributes[c->slot(name)].number;
}
void TF_OpKernelConstruction_GetAttrInt32(TF_OpKernelConstruction* c, const char* name, int32_t* value, TF_Status*) {
  *value = c->call->attributes[c->slot(name)].integer;
}
void TF_OpKernelConstruction_Failure(TF_OpKernelConstruction*, TF_Status*) {}

int TF_NumInputs(TF_OpKernelContext* call) { return call->inputs; }
void TF_GetInput(TF_OpKernelContext* call, int i, TF_Tensor** tensor, TF_Status*) {
  if (i >= call->inputs) hostFail("an operation has too few inputs");
  *tensor = &call->input[i];
}
void TF_OpKernelContext_Failure(TF_OpKernelContext*, TF_Status*) {}

}  // extern "C"

TF_Tensor* realm::allocateOutput(TF_OpKernelContext*, int i, const std::vector<int64_t>& shape, size_t, TF_Status*) {
  const int rank = static_cast<int>(shape.size());
  if (i >= MAX_OUTPUTS || rank > MAX_RANK) hostFail("too many outputs or axes");
  TF_Tensor& t = outputs[i];
  t.rank = rank;
  for (int d = 0; d < rank; d++) t.dims[d] = static_cast<int32_t>(shape[d]);
  t.data = hostOutput(rank, t.dims);
  return &t;
}

extern "C" {

/** Registers everything, once. */
__attribute__((export_name("start"))) void start(int threads) {
  realm::setThreads(threads);
  realm::registerAll();
}

/** Runs one operation. */
__attribute__((export_name("run"))) void run(int number, TF_OpKernelContext* call) {
  const Operation& op = operations[number];
  TF_OpKernelConstruction construction{&op, call};
  void* kernel = op.create(&construction);
  op.compute(kernel, call);
  op.remove(kernel);
}

/** C = op(A) op(B) + beta C, all contiguous: op(A) is [m, k], op(B) is [k, n]. */
__attribute__((export_name("multiply"))) void multiply(bool ta, bool tb, int m, int n, int k, const float* a,
                                                       const float* b, float beta, float* c) {
  realm::parallelProduct(ta, tb, m, n, k, 1, a, ta ? m : k, b, tb ? k : n, beta, c, n);
}
}
