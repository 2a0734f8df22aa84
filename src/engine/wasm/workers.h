// Between memory.cc and pool.cc.
#pragma once

namespace realm {

/** Wakes the main thread if it waits for the workers. */
void tellMain();
/** Gives a worker the memory that it asked for; the main thread calls it while it waits. */
void serveMemory();

}  // namespace realm
