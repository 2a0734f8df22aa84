// Loaded by Node as an addon. Node calls no signal handler while its main thread computes. So a thread with an event
// loop of its own counts the signals, in memory that JavaScript reads (stop.ts).
//
// libuv delivers a signal to every event loop that listens for it, and restores the default effect when the last one
// stops. So it does not matter who listens first, and child processes start without handlers. Node exports libuv's
// functions. They are declared here with plain pointers and sizes asked for at run time: the headers of one Node version
// are not needed, and the addon works with all of them.
#include <node_api.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <thread>

extern "C" {
size_t uv_loop_size(void);
size_t uv_handle_size(int type);
int uv_loop_init(void* loop);
int uv_loop_close(void* loop);
int uv_run(void* loop, int mode);
int uv_signal_init(void* loop, void* signal);
int uv_signal_start(void* signal, void (*heard)(void* signal, int number), int number);
int uv_timer_init(void* loop, void* timer);
int uv_timer_start(void* timer, void (*late)(void* timer), uint64_t milliseconds, uint64_t repeat);
int uv_async_init(void* loop, void* async, void (*woken)(void* async));
int uv_async_send(void* async);
int uv_is_active(const void* handle);
void uv_close(void* handle, void (*closed)(void* handle));
}

namespace {

// Of libuv's enums uv_handle_type and uv_run_mode.
constexpr int UV_ASYNC = 1, UV_TIMER = 13, UV_SIGNAL = 16, UV_RUN_DEFAULT = 0;

constexpr int NUMBERS[] = {SIGINT, SIGTERM, SIGHUP};
constexpr int SIGNALS = 3;

/** Exit code of a process that a signal ended, as in stop.ts. */
constexpr int STOPPED = 130;

/** Signals that this thread has heard, and that JavaScript has handled. JavaScript may look at them until the process ends. */
std::atomic<int32_t> counts[2];
static_assert(std::atomic<int32_t>::is_always_lock_free && sizeof counts == 8);
enum { HEARD, HANDLED };

uint32_t patience;
void *loop, *timer, *wake, *signals[SIGNALS];
std::thread* thread; // a pointer: the end of the process must not wait for it

void late(void*) {
  if (counts[HANDLED] >= counts[HEARD]) return;
  constexpr char text[] =
      "\nrealm: stopped in the middle of a long computation; what was saved last is kept\n";
  // Nothing is left to do where the terminal is gone.
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(STOPPED);
  _exit(STOPPED);
}

void heard(void*, int) {
  if (counts[HEARD].fetch_add(1) > 0 && !uv_is_active(timer)) uv_timer_start(timer, late, patience, 0);
}

void closeAll(void*) {
  for (void* signal : signals) uv_close(signal, nullptr);
  uv_close(timer, nullptr);
  uv_close(wake, nullptr);
}

napi_value fail(napi_env env, const char* what) {
  napi_throw_error(env, nullptr, what);
  return nullptr;
}

/**
 * start(before, patience): counts signals from now on, in a thread.
 * @param before signals that JavaScript has handled so far
 * @param patience milliseconds that a second signal may stay unhandled before the thread ends the process
 * @returns an ArrayBuffer of two int32: signals heard, and signals handled, which JavaScript writes
 */
napi_value start(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2], buffer;
  int32_t before = 0;
  if (thread != nullptr) return fail(env, "signals are already counted");
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  if (napi_get_value_int32(env, arguments[0], &before) != napi_ok ||
      napi_get_value_uint32(env, arguments[1], &patience) != napi_ok)
    return fail(env, "start takes two numbers");
  if (napi_create_external_arraybuffer(env, counts, sizeof counts, nullptr, nullptr, &buffer) != napi_ok)
    return fail(env, "this Node shares no memory with an addon");
  counts[HEARD] = counts[HANDLED] = before;
  // A failure means that the process has no file descriptors left. What is allocated then stays: it is little.
  const char* const failure = "no event loop for signals";
  loop = malloc(uv_loop_size());
  timer = malloc(uv_handle_size(UV_TIMER));
  wake = malloc(uv_handle_size(UV_ASYNC));
  if (uv_loop_init(loop) != 0 || uv_timer_init(loop, timer) != 0 || uv_async_init(loop, wake, closeAll) != 0)
    return fail(env, failure);
  for (int i = 0; i < SIGNALS; i++) {
    signals[i] = malloc(uv_handle_size(UV_SIGNAL));
    if (uv_signal_init(loop, signals[i]) != 0 || uv_signal_start(signals[i], heard, NUMBERS[i]) != 0)
      return fail(env, failure);
  }
  thread = new std::thread([] { uv_run(loop, UV_RUN_DEFAULT); });
  return buffer;
}

/** stop(): counts no more signals. Where nobody else listens, they have their default effect again. */
napi_value stop(napi_env env, napi_callback_info) {
  if (thread == nullptr) return nullptr;
  uv_async_send(wake);
  thread->join();
  delete thread;
  thread = nullptr;
  uv_loop_close(loop);
  for (void* signal : signals) free(signal);
  free(timer);
  free(wake);
  free(loop);
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "start", NAPI_AUTO_LENGTH, start, nullptr, &function);
  napi_set_named_property(env, exports, "start", function);
  napi_create_function(env, "stop", NAPI_AUTO_LENGTH, stop, nullptr, &function);
  napi_set_named_property(env, exports, "stop", function);
  return exports;
}
