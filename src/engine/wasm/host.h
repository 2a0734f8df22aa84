// What the WebAssembly module imports from ../wasm-fused.ts. An error is thrown in JavaScript.
#pragma once
#include <cstdint>

#define IMPORT(name) extern "C" __attribute__((import_module("env"), import_name(#name)))

/** Throws an Error with this text. */
IMPORT(fail) [[noreturn]] void hostFail(const char* message);
/** An operation exists; the attributes announced next are its own. Operations are numbered in this order. */
IMPORT(operation) void hostOperation(const char* name);
/** `name: type` of the next attribute. */
IMPORT(attribute) void hostAttribute(const char* spec);
/** Makes the operation's next output, a tensor of floats, and returns where its numbers are. */
IMPORT(output) void* hostOutput(int rank, const int32_t* dims);
/** Throws the error that memory has run out. */
IMPORT(noMemory) [[noreturn]] void hostNoMemory();
/** tfjs-backend-wasm's own malloc and free, for the main thread only. malloc returns null if there is no memory. */
IMPORT(malloc) void* hostMalloc(size_t bytes);
IMPORT(free) void hostFree(void* memory);
