// Lists on the command line of `thinwire bench`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire {

// "4,1K,64K" or "4-64M" (each four times the one before), in bytes; K, M and G
// are powers of 1024. Throws UsageError unless each is a multiple of 4 from 4
// on, in ascending order.
std::vector<std::int64_t> parse_sizes(std::string_view text);

std::vector<std::string> split_list(std::string_view text);

// A finite number >= least. Throws UsageError naming the option.
double parse_number(std::string_view option, const std::string& text,
                    double least);

}  // namespace thinwire
