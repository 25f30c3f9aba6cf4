# thinwire_add_library(FOLDER DEPS … [EXCLUDE …])
#   One static library per folder, from all its .cpp files but the tests;
#   alias thinwire::FOLDER. Files are found by glob, so none is forgotten.
#   FOLDER/*_test.cpp      -> FOLDER_tests, run once (base and ops: once per
#                             instruction set)
#   FOLDER/*_avx2.cpp, *_avx512.cpp: compiled for that set (base/isa.h)
#   FOLDER/*_mpi_test.cpp  -> FOLDER_mpi_tests, run under mpirun with 1, 2, 4
set(THINWIRE_TEST_FOLDERS "" CACHE INTERNAL "")

function(thinwire_isa_flags pattern flags)
  list(FILTER ARGN INCLUDE REGEX ${pattern})
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "${flags}")
endfunction()

function(thinwire_add_library folder)
  cmake_parse_arguments(arg "" "" "DEPS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
       ${PROJECT_SOURCE_DIR}/${folder}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/cuda/")  # cmake/Cuda.cmake
  set(mpi_tests ${sources})
  list(FILTER mpi_tests INCLUDE REGEX "_mpi_test\\.cpp$")
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests EXCLUDE REGEX "_mpi_test\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  if(arg_EXCLUDE)
    list(REMOVE_ITEM sources ${arg_EXCLUDE})
  endif()

  if(sources)
    add_library(thinwire_${folder} STATIC ${sources})
    set(kind PUBLIC)
  else()
    add_library(thinwire_${folder} INTERFACE)
    set(kind INTERFACE)
  endif()
  add_library(thinwire::${folder} ALIAS thinwire_${folder})
  target_include_directories(thinwire_${folder} ${kind} ${PROJECT_SOURCE_DIR})
  target_link_libraries(thinwire_${folder} ${kind} ${arg_DEPS})
  if(sources)
    target_link_libraries(thinwire_${folder} PRIVATE thinwire_options)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      thinwire_isa_flags("_avx2\\.cpp$" "-mavx2;-mfma" ${sources})
      thinwire_isa_flags("_avx512\\.cpp$"
        "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mfma" ${sources})
    endif()
  endif()

  foreach(variant tests mpi_tests)
    if(${variant})
      add_executable(${folder}_${variant} ${${variant}})
      target_link_libraries(${folder}_${variant} PRIVATE
        thinwire::${folder} thinwire_options thinwire_test_main GTest::gmock)
      target_compile_definitions(${folder}_${variant} PRIVATE
        THINWIRE_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
        THINWIRE_BINARY_DIR="${CMAKE_BINARY_DIR}")
      set_target_properties(${folder}_${variant} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    endif()
  endforeach()
  if(tests)
    add_test(NAME ${folder} COMMAND ${folder}_tests)
    set_tests_properties(${folder} PROPERTIES TIMEOUT 600
      ENVIRONMENT "OMP_NUM_THREADS=1" )
    # Kernels once more with each lesser instruction set.
    if(folder MATCHES "^(base|ops)$")
      foreach(isa portable avx2)
        add_test(NAME ${folder}_${isa} COMMAND ${folder}_tests)
        set_tests_properties(${folder}_${isa} PROPERTIES TIMEOUT 600
          ENVIRONMENT "OMP_NUM_THREADS=1;THINWIRE_ISA=${isa}"
          SKIP_REGULAR_EXPRESSION "this processor lacks it")
      endforeach()
    endif()
  endif()
  if(mpi_tests)
    thinwire_add_mpi_test(${folder}_mpi COMMAND ${folder}_mpi_tests)
  endif()
  list(LENGTH tests n_tests)
  list(LENGTH mpi_tests n_mpi)
  message(STATUS "${folder}: ${n_tests} test files, ${n_mpi} for mpirun")
endfunction()

# thinwire_add_mpi_test(NAME COMMAND target [args…] [RANKS 1 2 4] [TIMEOUT s])
function(thinwire_add_mpi_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "COMMAND;RANKS" ${ARGN})
  if(NOT arg_RANKS)
    set(arg_RANKS 1 2 4)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  list(POP_FRONT arg_COMMAND target)
  foreach(ranks ${arg_RANKS})
    add_test(NAME ${name}_np${ranks} COMMAND
      mpirun -np ${ranks} --oversubscribe --bind-to none
             --mca mpi_yield_when_idle 1 --timeout ${arg_TIMEOUT}
             $<TARGET_FILE:${target}> ${arg_COMMAND})
    set_tests_properties(${name}_np${ranks} PROPERTIES
      LABELS mpi PROCESSORS ${ranks} TIMEOUT ${arg_TIMEOUT} ENVIRONMENT
      "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMP_NUM_THREADS=1")
  endforeach()
endfunction()
