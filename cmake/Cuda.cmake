# libthinwire_cuda.so: what includes CUDA or NCCL headers (FOLDER/cuda/*.cpp) and
# kernels (FOLDER/cuda/*.cu), in one shared library that the program opens at run
# time. Nothing else is compiled or linked against CUDA, but for FOLDER_cuda_tests
# (FOLDER/cuda/*_test.cpp), which run where there is a GPU.
#
#   THINWIRE_CUDA=AUTO|ON|OFF   AUTO (or empty) builds it where the toolkit, NCCL
#                               and a LibTorch with CUDA are found
#   CUDAToolkit_ROOT, THINWIRE_NCCL_ROOT   folders with include/ and lib/
#   THINWIRE_CUDA_ARCHITECTURES            as of CMake: 80-real;90
set(THINWIRE_CUDA "AUTO" CACHE STRING "Build libthinwire_cuda.so: AUTO, ON, OFF")
set_property(CACHE THINWIRE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(THINWIRE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "Of the kernels")

# CMake 3.25.1 does not know how to ask nvcc for C++20, so the flag is ours and
# CMAKE_CUDA_STANDARD stays unset. -fmad=false: see ops/cuda/kernels.cu.
macro(thinwire_enable_cuda)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${THINWIRE_CUDA_ARCHITECTURES})
  set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
  enable_language(CUDA)
  set(CMAKE_CUDA_FLAGS
      "${CMAKE_CUDA_FLAGS} -std=c++20 --expt-relaxed-constexpr -fmad=false")
  set(CMAKE_CUDA_FLAGS_RELEASE "-O2")
endmacro()

# The library's own tests; they fail where there is no GPU, so ctest runs them
# only where a driver is.
function(thinwire_add_cuda_tests folder)
  file(GLOB tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/cuda/*_test.cpp)
  add_executable(${folder}_cuda_tests ${tests})
  target_include_directories(${folder}_cuda_tests SYSTEM PRIVATE
                             ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(${folder}_cuda_tests PRIVATE thinwire::${folder}
    thinwire_options thinwire_cuda CUDA::cudart thinwire_test_main GTest::gmock)
  set_target_properties(${folder}_cuda_tests PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(EXISTS /dev/nvidiactl)
    add_test(NAME ${folder}_cuda COMMAND ${folder}_cuda_tests)
    set_tests_properties(${folder}_cuda PROPERTIES TIMEOUT 600)
  endif()
endfunction()

# Macros: a language is enabled by the folder itself, not by a function.
macro(thinwire_add_cuda_library)
  set_property(SOURCE ${PROJECT_SOURCE_DIR}/comm/cuda_library_test.cpp APPEND
               PROPERTY COMPILE_DEFINITIONS THINWIRE_HAVE_CUDA=$<TARGET_EXISTS:thinwire_cuda>)
  if(THINWIRE_CUDA STREQUAL "OFF")
    message(STATUS "CUDA: off")
  else()
    find_package(CUDAToolkit QUIET)
    thinwire_find_cuda_parts(thinwire_cuda_complete)
    if(thinwire_cuda_complete)
      thinwire_enable_cuda()
      thinwire_link_cuda_library()
      thinwire_add_cuda_tests(ops)
    endif()
  endif()
endmacro()

# complete: whether all is there. Fails instead if THINWIRE_CUDA is ON.
function(thinwire_find_cuda_parts complete)
  set(${complete} FALSE PARENT_SCOPE)
  set(missing "")
  if(NOT CUDAToolkit_FOUND)
    list(APPEND missing "the CUDA toolkit (nvcc on PATH, or CUDAToolkit_ROOT)")
  elseif(CUDAToolkit_VERSION_MAJOR LESS 13)
    list(APPEND missing "CUDA 13 (found ${CUDAToolkit_VERSION})")
  endif()
  # NCCL: given, beside the toolkit, or the wheel that LibTorch was built with.
  find_path(THINWIRE_NCCL_INCLUDE nccl.h HINTS ${THINWIRE_NCCL_ROOT}/include
            ${THINWIRE_TORCH_SITE}/nvidia/nccl/include
            ${CUDAToolkit_INCLUDE_DIRS})
  find_library(THINWIRE_NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS
               ${THINWIRE_NCCL_ROOT}/lib ${THINWIRE_TORCH_SITE}/nvidia/nccl/lib
               ${CUDAToolkit_LIBRARY_DIR})
  if(NOT THINWIRE_NCCL_INCLUDE OR NOT THINWIRE_NCCL_LIBRARY)
    list(APPEND missing "NCCL 2 (nccl.h and libnccl.so.2, or THINWIRE_NCCL_ROOT)")
  endif()
  # Only its notion of the current stream; libtorch_cuda.so is not linked.
  find_library(THINWIRE_C10_CUDA c10_cuda HINTS ${THINWIRE_TORCH_SITE}/torch/lib
               ${TORCH_INSTALL_PREFIX}/lib)
  if(NOT THINWIRE_C10_CUDA)
    list(APPEND missing "a LibTorch with CUDA (libc10_cuda.so)")
  endif()
  if(missing)
    list(JOIN missing ", " missing)
    if(THINWIRE_CUDA STREQUAL "ON")
      message(FATAL_ERROR "THINWIRE_CUDA=ON, but missing: ${missing}")
    endif()
    message(STATUS "CUDA: libthinwire_cuda.so is left out, missing: ${missing}")
    return()
  endif()
  set(${complete} TRUE PARENT_SCOPE)
endfunction()

function(thinwire_link_cuda_library)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/*/cuda/*.cpp
       ${PROJECT_SOURCE_DIR}/*/cuda/*.cu)
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  add_library(thinwire_cuda SHARED ${sources})
  target_include_directories(thinwire_cuda PRIVATE ${PROJECT_SOURCE_DIR})
  target_include_directories(thinwire_cuda SYSTEM PRIVATE
    $<TARGET_PROPERTY:torch_cpu_only,INTERFACE_INCLUDE_DIRECTORIES>
    ${CUDAToolkit_INCLUDE_DIRS} ${THINWIRE_NCCL_INCLUDE})
  target_link_libraries(thinwire_cuda PRIVATE thinwire_options torch_cpu_only
    ${THINWIRE_C10_CUDA} CUDA::cudart ${THINWIRE_NCCL_LIBRARY})
  get_filename_component(nccl_dir ${THINWIRE_NCCL_LIBRARY} DIRECTORY)
  set_target_properties(thinwire_cuda PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} BUILD_RPATH "${nccl_dir}"
    LINKER_LANGUAGE CXX CUDA_RUNTIME_LIBRARY Shared)
  target_link_options(thinwire_cuda PRIVATE LINKER:--no-undefined)
  add_dependencies(comm_tests thinwire_cuda)
  add_dependencies(launch_tests thinwire_cuda)
  message(STATUS "CUDA: libthinwire_cuda.so with CUDA ${CUDAToolkit_VERSION},"
          " NCCL in ${nccl_dir}")
endfunction()
