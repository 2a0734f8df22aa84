#pragma once

namespace realm {

/** Whether these kernels were compiled for a processor that multiplies BF16 numbers. */
bool hasBf16();
/** Registers the operations of dense-bf16.cc, where it does. */
void registerDenseBf16();

}  // namespace realm
