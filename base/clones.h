// THINWIRE_CLONES before a free function: compiled for several instruction
// sets, the best one chosen when the program loads. Contraction is off
// (cmake/Toolchain.cmake) and sums are written with their lanes spelled out, so
// every clone gives the same bits.
#pragma once

// Resolvers run before the sanitizer runtime is up.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define THINWIRE_CLONES \
  __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define THINWIRE_CLONES
#endif
