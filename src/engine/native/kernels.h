#pragma once
#include "op.h"

namespace realm {

void registerDense();
void registerFeedForward();
void registerNorm();
void registerAttention();
void registerEmbeddings();
void registerPieces();
void registerMarginal();
void registerRows();
void registerSpans();
void registerAdam();

/** Registers everything, once per process. */
inline void registerAll() {
  registerDense();
  registerFeedForward();
  registerNorm();
  registerAttention();
  registerEmbeddings();
  registerPieces();
  registerMarginal();
  registerRows();
  registerSpans();
  registerAdam();
}

}  // namespace realm
