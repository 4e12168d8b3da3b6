/* Included before every C++ file of llama.cpp. GCC up to 13 says that `_tile_loadconfig` reads 8 of its 64 bytes
   (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=114098); it then drops what llama.cpp writes into the others, and on a
   processor with AMX the first prompt ends in a segmentation fault. */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])(config)))
#endif
