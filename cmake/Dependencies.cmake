include(LibTorch)

find_package(MPI REQUIRED COMPONENTS C)
# The C interface alone: the C++ bindings were dropped from the standard.
set_property(TARGET MPI::MPI_C APPEND PROPERTY INTERFACE_COMPILE_DEFINITIONS
             OMPI_SKIP_MPICXX=1 MPICH_SKIP_MPICXX=1)
find_package(ZLIB REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
# The wheel brings headers of another fmt; this folder goes before them, so
# that every unit sees the one that is linked.
find_path(THINWIRE_FMT_INCLUDE fmt/format.h REQUIRED)
set(fmt_only ${CMAKE_BINARY_DIR}/fmt_only)
file(MAKE_DIRECTORY ${fmt_only})
file(CREATE_LINK ${THINWIRE_FMT_INCLUDE}/fmt ${fmt_only}/fmt SYMBOLIC)
target_include_directories(torch_cpu_only SYSTEM BEFORE INTERFACE ${fmt_only})
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(GTest REQUIRED)
find_package(PkgConfig REQUIRED)
# The serial HDF5, also where an MPI build of it is installed beside.
pkg_check_modules(hdf5 REQUIRED IMPORTED_TARGET hdf5-serial)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)

message(STATUS "MPI: ${MPI_C_LIBRARY_VERSION_STRING} (${MPI_C_VERSION})")
message(STATUS "HDF5: ${hdf5_VERSION}")
