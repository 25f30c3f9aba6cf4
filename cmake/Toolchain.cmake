# Compiler flags on one interface target, and what makes builds fast on small
# machines: ccache, mold, jobs limited by memory as well as cores.

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
option(THINWIRE_WERROR "Warnings are errors" OFF)
option(THINWIRE_SANITIZE "Address and undefined-behaviour sanitizers" OFF)

add_library(thinwire_options INTERFACE)
target_compile_options(thinwire_options INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wno-unused-parameter>
  $<$<AND:$<COMPILE_LANGUAGE:C,CXX>,$<BOOL:${THINWIRE_WERROR}>>:-Werror>)
# Bitwise promises (resume, packed = padded) forbid value-changing maths.
target_compile_options(thinwire_options INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>)
if(THINWIRE_SANITIZE)
  target_compile_options(thinwire_options INTERFACE
    $<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=address,undefined;-fno-omit-frame-pointer;-g1>)
  target_link_options(thinwire_options INTERFACE -fsanitize=address,undefined)
endif()
# -O2 with the vectoriser; parsing dominates the build, not optimisation.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -ftree-vectorize")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g1")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
message(STATUS "ccache: ${CCACHE_PROGRAM}")

find_program(MOLD_PROGRAM mold)
find_program(LLD_PROGRAM ld.lld)
if(MOLD_PROGRAM)
  # Without RELRO: mold 1.10 begins it at a one-byte TLS section, which may lie
  # in a page that nothing maps, and the program then does not load.
  add_link_options(-fuse-ld=mold LINKER:-z,norelro)
  message(STATUS "linker: mold")
elseif(LLD_PROGRAM)
  add_link_options(-fuse-ld=lld)
  message(STATUS "linker: lld")
endif()

# A LibTorch translation unit peaks near 1.5 GB.
cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
cmake_host_system_information(RESULT memory_mib QUERY AVAILABLE_PHYSICAL_MEMORY)
math(EXPR jobs_by_memory "${memory_mib} / 1500")
if(jobs_by_memory LESS 1)
  set(jobs_by_memory 1)
endif()
set(jobs ${cores})
if(jobs_by_memory LESS jobs)
  set(jobs ${jobs_by_memory})
endif()
set_property(GLOBAL PROPERTY JOB_POOLS compile=${jobs})
set(CMAKE_JOB_POOL_COMPILE compile)
message(STATUS "compile jobs: ${jobs}")
