#pragma once

namespace realm {

/** From now on, memory that this process frees stays its own, for its next results. */
void keepFreedMemory();

}  // namespace realm
