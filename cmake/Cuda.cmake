# libthinwire_cuda.so: what includes CUDA or NCCL headers (FOLDER/cuda/*.cpp),
# in one shared library that the program opens at run time. Nothing else is
# compiled or linked against CUDA.
#
#   THINWIRE_CUDA=AUTO|ON|OFF   AUTO (or empty) builds it where the toolkit, NCCL
#                               and a LibTorch with CUDA are found
#   CUDAToolkit_ROOT, THINWIRE_NCCL_ROOT   folders with include/ and lib/
set(THINWIRE_CUDA "AUTO" CACHE STRING "Build libthinwire_cuda.so: AUTO, ON, OFF")
set_property(CACHE THINWIRE_CUDA PROPERTY STRINGS AUTO ON OFF)

function(thinwire_add_cuda_library)
  set_property(SOURCE ${PROJECT_SOURCE_DIR}/comm/cuda_library_test.cpp APPEND
               PROPERTY COMPILE_DEFINITIONS THINWIRE_HAVE_CUDA=$<TARGET_EXISTS:thinwire_cuda>)
  if(THINWIRE_CUDA STREQUAL "OFF")
    message(STATUS "CUDA: off")
    return()
  endif()
  find_package(CUDAToolkit QUIET)
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

  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/*/cuda/*.cpp)
  add_library(thinwire_cuda SHARED ${sources})
  target_include_directories(thinwire_cuda PRIVATE ${PROJECT_SOURCE_DIR})
  target_include_directories(thinwire_cuda SYSTEM PRIVATE
    $<TARGET_PROPERTY:torch_cpu_only,INTERFACE_INCLUDE_DIRECTORIES>
    ${CUDAToolkit_INCLUDE_DIRS} ${THINWIRE_NCCL_INCLUDE})
  target_link_libraries(thinwire_cuda PRIVATE thinwire_options torch_cpu_only
    ${THINWIRE_C10_CUDA} CUDA::cudart ${THINWIRE_NCCL_LIBRARY})
  get_filename_component(nccl_dir ${THINWIRE_NCCL_LIBRARY} DIRECTORY)
  set_target_properties(thinwire_cuda PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} BUILD_RPATH "${nccl_dir}")
  target_link_options(thinwire_cuda PRIVATE LINKER:--no-undefined)
  add_dependencies(comm_tests thinwire_cuda)
  message(STATUS "CUDA: libthinwire_cuda.so with CUDA ${CUDAToolkit_VERSION},"
          " NCCL in ${nccl_dir}")
endfunction()
