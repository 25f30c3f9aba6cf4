// When each bucket of an exchange was final and when the exchange was over, as
// lines of JSON: what overlap is judged by.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/reducer.h"

namespace thinwire {

// Passes everything on to `reducer`, which has these buckets, and appends to
// the file: first {"buckets":[{"count":…,"codec":…},…]} in the order in which
// they are sent, then after each exchange
//   {"exchange":…,"begin":…,"ready":[…],"finish":…,"done":…,"sent":…}
// in seconds of the monotonic clock, which all processes of a machine share: of
// begin(), of each bucket's ready() (of finish() where there was none), of the
// call of finish() and of its end; and bytes sent. Throws IoError when the file
// cannot be opened; what cannot be written later is lost.
std::unique_ptr<Reducer> make_traced_reducer(std::unique_ptr<Reducer> reducer,
                                             std::vector<Bucket> buckets,
                                             const std::string& path);

}  // namespace thinwire
