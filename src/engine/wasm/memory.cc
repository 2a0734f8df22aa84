// new and delete. tfjs-backend-wasm's malloc is for one thread, and its code is not in the workers: so a worker asks the
// main thread, which answers when it has no work of its own left, and the worker keeps what it got for its next pieces.
#include <atomic>
#include <cstdint>
#include <new>

#include "host.h"
#include "workers.h"

namespace realm {
namespace {

/** A block that a worker keeps. */
struct Block {
  void* data;
  size_t bytes;
  bool used;
};

/** More than any kernel holds at a time on one thread. */
constexpr int MAX_BLOCKS = 8;

thread_local bool worker = false;
thread_local Block blocks[MAX_BLOCKS];

enum State { FREE, CLAIMED, ASKED, ANSWERED };
std::atomic<int> state{FREE};
void* released;  // of the request
size_t wanted;
void* answer;

int* word() { return reinterpret_cast<int*>(&state); }

void waitFor(State next) {
  for (int seen; (seen = state.load()) != next;) __builtin_wasm_memory_atomic_wait32(word(), seen, -1);
}

void become(State next) {
  state.store(next);
  __builtin_wasm_memory_atomic_notify(word(), ~0u);
}

/** Asks the main thread to free one block and to allocate another. */
void* ask(void* old, size_t bytes) {
  for (int free = FREE; !state.compare_exchange_strong(free, CLAIMED); free = FREE) waitFor(FREE);
  released = old;
  wanted = bytes;
  become(ASKED);
  tellMain();
  waitFor(ANSWERED);
  void* memory = answer;
  become(FREE);
  return memory;
}

void* allocateInWorker(size_t bytes) {
  Block* best = nullptr;
  for (Block& block : blocks) {
    if (block.used) continue;
    const bool fits = block.bytes >= bytes;
    if (!best || (fits && (best->bytes < bytes || block.bytes < best->bytes))) best = &block;
  }
  if (!best) __builtin_trap();
  if (best->bytes < bytes) *best = {ask(best->data, bytes), bytes, false};
  if (!best->data) __builtin_trap();
  best->used = true;
  return best->data;
}

}  // namespace

void serveMemory() {
  if (state.load() != ASKED) return;
  if (released) hostFree(released);
  answer = hostMalloc(wanted);  // null ends the worker
  become(ANSWERED);
}

/** Called in each worker's instance before serve(). */
extern "C" __attribute__((export_name("becomeWorker"))) void becomeWorker() { worker = true; }

}  // namespace realm

void* operator new(size_t bytes) {
  void* memory = realm::worker ? realm::allocateInWorker(bytes) : hostMalloc(bytes);
  if (!memory) hostNoMemory();
  return memory;
}
void* operator new[](size_t bytes) { return operator new(bytes); }

void operator delete(void* memory) noexcept {
  if (!memory) return;
  if (!realm::worker) return hostFree(memory);
  for (realm::Block& block : realm::blocks) {
    if (block.data == memory) block.used = false;
  }
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete[](void* memory, size_t) noexcept { operator delete(memory); }
