// The most multiply-adds a second that this machine does: registers only, all threads. Prints flop/s for float and
// double. Usage: peak THREADS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

template <class S> struct Vector { typedef S type __attribute__((vector_size(BYTES))); };

template <class S> S spin(long rounds, S factor) {
  using V = typename Vector<S>::type;
  constexpr int CHAINS = 12;  // more than latency times ports
  V sum[CHAINS], a = V{} + factor, b = V{} + S(1e-3);
  for (int k = 0; k < CHAINS; ++k) sum[k] = V{} + S(k);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; ++k) {
      sum[k] = sum[k] * a + b;
      asm volatile("" : "+v"(sum[k]));
    }
  }
  V total = V{};
  for (V s : sum) total += s;
  return total[0];
}

template <class S> double rate(int threads) {
  const long rounds = 20'000'000;
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    std::vector<std::thread> running;
    std::vector<S> sink(threads);
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; ++t) running.emplace_back([&, t] { sink[t] = spin<S>(rounds, S(0.999)); });
    for (auto& thread : running) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double flops = 2.0 * 12 * (BYTES / sizeof(S)) * rounds * threads / seconds.count();
    if (flops > best && sink[0] == sink[0]) best = flops;
  }
  return best;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  std::printf("%.6e %.6e\n", rate<float>(threads), rate<double>(threads));
}
