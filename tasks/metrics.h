// Figures over evaluated samples. All in double precision, and a function of
// the rows in their order alone, so that every rank computes the same ones.
#pragma once

#include <span>

namespace thinwire {

// predictions, labels: [n], n >= 1. Classes are compared as numbers.
double accuracy(std::span<const double> predictions,
                std::span<const double> labels);

// 2 TP / (2 TP + FP + FN) of one class; 0 where that class is neither
// predicted nor there.
double f1_of_class(std::span<const double> predictions,
                   std::span<const double> labels, double positive);
// The mean of it over the classes that are predicted or there.
double f1_macro(std::span<const double> predictions,
                std::span<const double> labels);

// Gorodkin 2004, "Comparing two K-category assignments by a K-category
// correlation coefficient"; for two classes Matthews' own. 0 where all labels
// or all predictions are equal.
double matthews(std::span<const double> predictions,
                std::span<const double> labels);

// Correlation of the values, and of their ranks (ties share the mean of their
// ranks). 0 where all of either are equal, NaN where a value is not finite.
double pearson(std::span<const double> x, std::span<const double> y);
double spearman(std::span<const double> x, std::span<const double> y);

}  // namespace thinwire
