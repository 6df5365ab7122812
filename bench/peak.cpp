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

constexpr int CHAINS = BYTES == 64 ? 24 : 12;  // more than latency times ports, fewer than registers

template <class S> S spin(long rounds) {
  using V = typename Vector<S>::type;
  V sum[CHAINS], a = V{} + S(0.999), b = V{} + S(1e-3);
#pragma GCC unroll 24
  for (int k = 0; k < CHAINS; ++k) sum[k] = V{} + S(k);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (int k = 0; k < CHAINS; ++k) sum[k] = sum[k] * a + b;
    asm volatile("" : "+v"(a), "+v"(b));  // as far as the compiler knows, they change
  }
  V total = V{};
#pragma GCC unroll 24
  for (int k = 0; k < CHAINS; ++k) total += sum[k];
  return total[0];
}

template <class S> double rate(int threads) {
  const long rounds = 10'000'000;
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    std::vector<std::thread> running;
    std::vector<S> sink(threads);
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; ++t) running.emplace_back([&, t] { sink[t] = spin<S>(rounds); });
    for (auto& thread : running) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double flops = 2.0 * CHAINS * (BYTES / sizeof(S)) * rounds * threads / seconds.count();
    if (flops > best && sink[0] == sink[0]) best = flops;
  }
  return best;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  std::printf("%.6e %.6e\n", rate<float>(threads), rate<double>(threads));
}
