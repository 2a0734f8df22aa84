#pragma once
#include "op.h"

namespace realm {

void registerDense();
void registerNorm();
void registerAttention();
void registerEmbeddings();
void registerPieces();
void registerSpans();
void registerAdam();

/** Registers everything, once per process. */
inline void registerAll() {
  registerDense();
  registerNorm();
  registerAttention();
  registerEmbeddings();
  registerPieces();
  registerSpans();
  registerAdam();
}

}  // namespace realm
