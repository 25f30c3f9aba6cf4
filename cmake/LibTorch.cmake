# Target torch_cpu_only: the CPU half of LibTorch.
#
# 1. a LibTorch found through CMAKE_PREFIX_PATH, when it is given;
# 2. else the PyPI wheel in THINWIRE_TORCH_SITE (a site-packages folder,
#    default .venv's), without find_package(Torch): the wheel is a CUDA build,
#    and its own package file insists on a CUDA toolkit that CPU work never
#    touches. libtorch.so would pull in cuDNN, cuBLAS and NCCL; libtorch_cpu
#    and libc10 do not.

add_library(torch_cpu_only INTERFACE)

if(CMAKE_PREFIX_PATH)
  find_package(Torch QUIET)
endif()
if(Torch_FOUND)
  target_link_libraries(torch_cpu_only INTERFACE ${TORCH_LIBRARIES})
  target_include_directories(torch_cpu_only SYSTEM INTERFACE
                             ${TORCH_INCLUDE_DIRS})
  message(STATUS "LibTorch: ${Torch_DIR}")
  return()
endif()

if(NOT THINWIRE_TORCH_SITE)
  file(GLOB sites ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages)
  list(GET sites 0 first_site)
  set(THINWIRE_TORCH_SITE ${first_site} CACHE PATH
      "site-packages folder that holds torch")
endif()
set(torch_dir ${THINWIRE_TORCH_SITE}/torch)
if(NOT EXISTS ${torch_dir}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch is missing: no ${torch_dir}/lib/libtorch_cpu.so"
          " (run `bash launch/setup.sh`, or set CMAKE_PREFIX_PATH or"
          " THINWIRE_TORCH_SITE)")
endif()
target_include_directories(torch_cpu_only SYSTEM INTERFACE
  ${torch_dir}/include ${torch_dir}/include/torch/csrc/api/include)
target_link_directories(torch_cpu_only INTERFACE ${torch_dir}/lib)
target_link_libraries(torch_cpu_only INTERFACE torch_cpu c10)
target_link_options(torch_cpu_only INTERFACE
  LINKER:-rpath,${torch_dir}/lib
  LINKER:-rpath-link,${torch_dir}/lib
  LINKER:-rpath-link,${THINWIRE_TORCH_SITE}/nvidia/cu13/lib)
message(STATUS "LibTorch: ${torch_dir}")
