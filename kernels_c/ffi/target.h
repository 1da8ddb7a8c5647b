/* target.h: compile the rest of a file for an instruction set, with gcc or clang. */
#if defined(__aarch64__) && !defined(__AARCH64EB__) && (defined(__GNUC__) || defined(__clang__))
#define PPN_ARM64 1
#else
#define PPN_ARM64 0
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PPN_X86 1
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define PPN_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define PPN_TARGET(set) PPN_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define PPN_TARGET_END _Pragma("clang attribute pop")
#else
#define PPN_TARGET(set) _Pragma("GCC push_options") PPN_PRAGMA(GCC target(set))
#define PPN_TARGET_END _Pragma("GCC pop_options")
#endif
#else
#define PPN_X86 0
#endif
