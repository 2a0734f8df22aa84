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

}  // namespace realm
