// Classify images with the served graph of a purify-edge bundle, in C++ alone.
//
//     purify GRAPH IMAGES
//
// IMAGES holds one image after another, each float32 [C, H, W] in [0, 1], RGB, in this machine's byte order, without a
// header, as numpy's `tofile` writes it. Each gets a line of five fields with tabs between them: its number, its class,
// the probability of that, its suspicion, and `suspicious` or `unsuspicious` (`-` where the bundle has no threshold).
// Exit code 0; 1 where an image got no answer, for the numbers are not finite; 2 for bad input; 3 for a device.
//
// With ONNX Runtime (tested: headers of 1.21, library of 1.32) GRAPH is models/served.PRECISION.onnx, which says itself
// what its classes are:
//
//     c++ -std=c++17 -O2 purify.cpp -o purify -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime
//
// With TensorRT 10 or 11, GRAPH is an engine that trtexec.sh built on this device. An engine says nothing of itself, so
// its classes are those of purify_facts.h beside this file. It is executable code: run none that others built. This
// half was never compiled against TensorRT's own headers nor run, for neither was to be had:
//
//     c++ -std=c++17 -O2 -DPURIFY_TENSORRT purify.cpp -o purify -I /usr/local/cuda/include -L /usr/local/cuda/lib64
//         -lnvinfer -lcudart
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

struct Answer {
    std::vector<float> probabilities;
    float suspicion;
};

struct DeviceError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse(const std::string& text) { throw std::runtime_error(text); }

#ifdef PURIFY_TENSORRT
#include <NvInfer.h>
#include <cuda_runtime_api.h>
#include <cstring>
#include <map>
#include <memory>

#include "purify_facts.h"

void check(cudaError_t code) {
    if (code != cudaSuccess) throw DeviceError(std::string("CUDA: ") + cudaGetErrorString(code));
}

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, const char* text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", text);
    }
};

// An engine, run on one image at a time; each of its tensors has a buffer on the GPU for as long as the program runs.
class Network {
  public:
    std::vector<std::string> classes{std::begin(kClassNames), std::end(kClassNames)};
    std::optional<float> threshold = kHasThreshold ? std::optional<float>(kThreshold) : std::nullopt;
    std::array<int64_t, 3> shape{};

    explicit Network(const std::filesystem::path& path) {
        std::ifstream file(path, std::ios::binary);
        if (!file) refuse(path.string() + " cannot be read; trtexec.sh builds it");
        const std::vector<char> plan{std::istreambuf_iterator<char>(file), {}};
        check(cudaStreamCreate(&stream_));
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        engine_.reset(runtime_ ? runtime_->deserializeCudaEngine(plan.data(), plan.size()) : nullptr);
        context_.reset(engine_ ? engine_->createExecutionContext() : nullptr);
        if (!context_) refuse(path.string() + " is no engine for this device and TensorRT; build it with trtexec.sh");
        const nvinfer1::Dims whole = engine_->getTensorShape("images");
        if (whole.nbDims != 4) refuse(path.string() + " has no input `images` [N, C, H, W]; build it with trtexec.sh");
        std::copy(whole.d + 1, whole.d + 4, shape.begin());
        nvinfer1::Dims one = whole;
        one.d[0] = 1;
        if (!context_->setInputShape("images", one)) refuse("the engine takes no single image; export with --batch 1,8,64");
        for (int k = 0; k < engine_->getNbIOTensors(); ++k) {
            const char* name = engine_->getIOTensorName(k);
            const nvinfer1::Dims dims = context_->getTensorShape(name);
            int64_t& size = sizes_[name] = 1;
            for (int axis = 0; axis < dims.nbDims; ++axis) size *= dims.d[axis];
            check(cudaMalloc(&buffers_[name], size * sizeof(float)));
            if (engine_->getTensorDataType(name) != nvinfer1::DataType::kFLOAT ||
                !context_->setTensorAddress(name, buffers_[name]))
                refuse(std::string("the engine's tensor ") + name + " is not as --integrations writes it");
        }
        if (sizes_["probabilities"] != static_cast<int64_t>(classes.size()) || sizes_["suspicion"] != 1)
            refuse("the engine and purify_facts.h are not of the same bundle");
    }

    Answer run(const float* image) {
        Answer answer{std::vector<float>(classes.size()), 0};
        copy(buffers_["images"], image, sizes_["images"], cudaMemcpyHostToDevice);
        if (!context_->enqueueV3(stream_)) throw DeviceError("TensorRT did not run the engine; see what it says above");
        copy(answer.probabilities.data(), buffers_["probabilities"], sizes_["probabilities"], cudaMemcpyDeviceToHost);
        copy(&answer.suspicion, buffers_["suspicion"], 1, cudaMemcpyDeviceToHost);
        check(cudaStreamSynchronize(stream_));
        return answer;
    }

  private:
    void copy(void* to, const void* from, int64_t count, cudaMemcpyKind way) {
        check(cudaMemcpyAsync(to, from, count * sizeof(float), way, stream_));
    }

    Logger logger_;
    cudaStream_t stream_{};
    std::map<std::string, void*> buffers_;
    std::map<std::string, int64_t> sizes_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
};
#else
#include <onnxruntime_cxx_api.h>

// Return the strings of a JSON array as the graph's metadata have it: UTF-8, with control characters escaped.
std::vector<std::string> strings_of(const std::string& json) {
    static const std::string from = "bfnrt", to = "\b\f\n\r\t";
    std::vector<std::string> found;
    bool inside = false;
    for (size_t k = 0; k < json.size(); ++k) {
        if (json[k] == '"') {
            if (!inside) found.emplace_back();
            inside = !inside;
        } else if (inside && json[k] == '\\' && ++k < json.size()) {
            const size_t place = from.find(json[k]);
            if (json[k] == 'u') {
                found.back() += static_cast<char>(std::stoi(json.substr(k + 1, 4), nullptr, 16));
                k += 4;
            } else {
                found.back() += place == std::string::npos ? json[k] : to[place];
            }
        } else if (inside) {
            found.back() += json[k];
        }
    }
    return found;
}

// A session of the graph on the CPU, run on one image at a time.
class Network {
  public:
    std::vector<std::string> classes;
    std::optional<float> threshold;
    std::array<int64_t, 3> shape{};

    explicit Network(const std::filesystem::path& path) : session_(environment_, path.c_str(), Ort::SessionOptions{}) {
        classes = strings_of(metadata("purify_edge.class_names"));
        const std::string suspicion = metadata("purify_edge.suspicion"), key = "\"threshold\":";
        const size_t place = suspicion.find(key);
        if (place != std::string::npos) threshold = std::strtof(suspicion.c_str() + place + key.size(), nullptr);
        const auto type = session_.GetInputTypeInfo(0);  // it owns what the next line looks at
        const auto input = type.GetTensorTypeAndShapeInfo();
        const std::vector<int64_t> dims = input.GetShape();
        if (session_.GetOutputCount() < 3 || dims.size() != 4 ||
            input.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
            refuse(path.string() + " is not a graph for this program; purify-export --served float32 writes one");
        std::copy(dims.begin() + 1, dims.end(), shape.begin());
    }

    Answer run(const float* image) {
        const std::array<int64_t, 4> dims{1, shape[0], shape[1], shape[2]};
        const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const Ort::Value images = Ort::Value::CreateTensor<float>(  // it only reads them
            memory, const_cast<float*>(image), shape[0] * shape[1] * shape[2], dims.data(), dims.size());
        const std::array<const char*, 1> taken{"images"};
        const std::array<const char*, 2> given{"probabilities", "suspicion"};
        auto found = session_.Run(Ort::RunOptions{}, taken.data(), &images, 1, given.data(), given.size());
        const float* first = found[0].GetTensorData<float>();
        if (found[0].GetTensorTypeAndShapeInfo().GetElementCount() != classes.size())
            refuse("the graph names another number of classes than it has; export the bundle again");
        return {std::vector<float>(first, first + classes.size()), found[1].GetTensorData<float>()[0]};
    }

  private:
    std::string metadata(const char* key) {
        const auto value = session_.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator_);
        if (!value)
            refuse(std::string("the graph has no metadata ") + key + "; purify-export --served float32 writes one");
        return value.get();
    }

    Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR, "purify"};
    Ort::AllocatorWithDefaultOptions allocator_;
    Ort::Session session_;
};
#endif

// Return the pixels of all images in a file, once their number and range are found right.
std::vector<float> pixels_of(const std::filesystem::path& path, const std::array<int64_t, 3>& shape) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) refuse(path.string() + " cannot be read; expected a file of images");
    const auto size = static_cast<int64_t>(file.tellg());
    const int64_t one = shape[0] * shape[1] * shape[2] * static_cast<int64_t>(sizeof(float));
    if (size <= 0 || size % one != 0)
        refuse(path.string() + " has " + std::to_string(size) + " bytes; expected a multiple of " +
               std::to_string(one) + ", float32 [" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ", " +
               std::to_string(shape[2]) + "] for each image, without a header");
    std::vector<float> pixels(static_cast<size_t>(size) / sizeof(float));
    if (!file.seekg(0).read(reinterpret_cast<char*>(pixels.data()), size)) refuse(path.string() + " cannot be read");
    const auto is_bad = [](float pixel) { return !(pixel >= 0 && pixel <= 1); };
    const auto bad = std::find_if(pixels.begin(), pixels.end(), is_bad);
    if (bad != pixels.end())
        refuse(path.string() + " has a pixel of " + std::to_string(*bad) + "; expected [0, 1]: divide bytes by 255");
    return pixels;
}

int main(int count, char** arguments) try {
    if (count != 3) refuse("expected two arguments, a graph and a file of images");
    Network network(arguments[1]);
    const std::vector<float> pixels = pixels_of(arguments[2], network.shape);
    const size_t one = static_cast<size_t>(network.shape[0] * network.shape[1] * network.shape[2]);
    int code = 0;
    for (size_t k = 0; k < pixels.size() / one; ++k) {
        const Answer answer = network.run(pixels.data() + k * one);
        const auto& found = answer.probabilities;
        const auto best = std::max_element(found.begin(), found.end());
        const bool finite = std::all_of(found.begin(), found.end(), [](float value) { return std::isfinite(value); });
        if (!finite) code = 1;
        const char* verdict = "-";  // a suspicion that is not a number is suspicious
        if (network.threshold) verdict = answer.suspicion <= *network.threshold ? "unsuspicious" : "suspicious";
        const char* name = finite ? network.classes[best - found.begin()].c_str() : "no answer";
        std::printf("%zu\t%s\t%.6f\t%.6g\t%s\n", k, name, finite ? *best : NAN, answer.suspicion, verdict);
    }
    return code;
} catch (const DeviceError& error) {
    std::fprintf(stderr, "purify: %s\n", error.what());
    return 3;
} catch (const std::exception& error) {
    std::fprintf(stderr, "purify: %s\n", error.what());
    return 2;
}
