#include "comm/cuda_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "comm/cuda_api.h"
#include "comm/nccl_api.h"

namespace thinwire {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

template <class Body>
std::string usage_error(Body body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(CudaLibrary, SaysWhatToDoWhenItIsAbsent) {
  const std::string text = usage_error(
      [] { open_cuda_library(THINWIRE_BINARY_DIR "/no/libthinwire_cuda.so"); });
  EXPECT_THAT(text, HasSubstr("/no/libthinwire_cuda.so does not load"));
  EXPECT_THAT(text, HasSubstr("-DTHINWIRE_CUDA=ON"));
}

TEST(CudaLibrary, RefusesALibraryThatIsSomethingElse) {
  EXPECT_THAT(usage_error([] { open_cuda_library("libm.so.6"); }),
              HasSubstr("another version of Thinwire"));
}

#if THINWIRE_HAVE_CUDA

// Beside the folder of the test binaries, and so found without a path.
TEST(CudaLibrary, HoldsCudaAndNccl) {
  const CudaBindings& bindings = load_cuda_library();
  int cuda = 0, nccl = 0;
  EXPECT_EQ(bindings.cuda->runtime_version(cuda), CudaApi::kSuccess);
  EXPECT_GE(cuda, 13000);
  EXPECT_EQ(bindings.nccl->version(nccl), NcclApi::kSuccess);
  EXPECT_GE(nccl, 22000);
  EXPECT_THAT(bindings.cuda->error_text(CudaApi::kNotReady),
              HasSubstr("not ready"));
  EXPECT_THAT(bindings.nccl->error_text(NcclApi::kUnhandledCudaError),
              HasSubstr("cuda error"));
  EXPECT_NE(bindings.kernels, nullptr);
  EXPECT_EQ(&load_cuda_library(), &bindings);
}

TEST(CudaLibrary, IsDescribed) {
  EXPECT_THAT(describe_cuda_library(),
              StartsWith("libthinwire_cuda.so: CUDA 13."));
  EXPECT_THAT(describe_cuda_library(), HasSubstr(", NCCL 2."));
}

// A machine with and one without a GPU: one and the other must be told apart.
TEST(CudaLibrary, FindsGpusOrSaysWhyNot) {
  CudaApi& cuda = *load_cuda_library().cuda;
  int count = 0;
  const int code = cuda.device_count(count);
  cuda.last_error();
  if (code == CudaApi::kSuccess && count > 0) {
    EXPECT_THAT(describe_gpus(), HasSubstr(" GiB"));
  } else {
    EXPECT_THAT(describe_gpus(), StartsWith("none"));
  }
}

#else

TEST(CudaLibrary, IsLeftOutOfThisBuild) {
  EXPECT_THAT(usage_error([] { load_cuda_library(); }),
              HasSubstr("this build has no GPU support"));
  EXPECT_THAT(describe_cuda_library(), HasSubstr("-DTHINWIRE_CUDA=ON"));
  EXPECT_EQ(describe_gpus(), "none: this build has no GPU support");
}

#endif

}  // namespace
}  // namespace thinwire
