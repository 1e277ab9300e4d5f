"""Packaging: one distribution, one import name, four top-level folders mapped into it."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent

# The sources lie in short top-level folders, but bare `kernels` or `runtime` in site-packages would
# collide with other people's packages, so every folder is installed below `sdtc`.
FOLDERS = {"sdtc": "sdtc", "sdtc.export": "export", "sdtc.kernels": "kernels", "sdtc.runtime": "runtime"}


def packages() -> list[str]:
    found = []
    for name, folder in FOLDERS.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            found.append(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    return found


def version() -> str:
    source = (ROOT / "sdtc" / "__init__.py").read_text(encoding="utf-8")
    return source.split('__version__ = "')[1].split('"')[0]


CPU = ["onnxruntime>=1.20"]
OPENVINO = ["openvino>=2025.0", "onnx>=1.18"]  # onnx: OpenVINO's reader knows no model-local functions
CUDA = "cuda-python>=12.8"
# Only where there are wheels: elsewhere the whole extra would fail to install for an engine that cannot be built.
TENSORRT_RTX = (
    "tensorrt-rtx>=1.3; (platform_system == 'Linux' or platform_system == 'Windows')"
    " and (platform_machine == 'x86_64' or platform_machine == 'AMD64')"
)
GPU = ["onnxruntime-gpu>=1.20", "tensorrt>=10.13", CUDA]
GPU_RTX = [TENSORRT_RTX, CUDA, *CPU]
# Beside `cpu` or `gpu`: the exported graph is checked by ONNX Runtime before anyone gets it, but onnxruntime and
# onnxruntime-gpu hold the same files, so this extra must not choose one.
EXPORT = [
    "torch>=2.9",
    "onnx>=1.18",
    "onnxscript>=0.5.3",
    "safetensors>=0.4",
    TENSORRT_RTX,
    # to see whether there is a GPU to build for; it imports without a driver
    f"{CUDA}; platform_system == 'Linux' or platform_system == 'Windows'",
]
TRAIN = [
    "torch>=2.9",
    "safetensors>=0.4",
    "accelerate>=1.0",  # several GPUs, mixed precision
    "pyyaml>=6",
    "tensorboard>=2.14",
    "matplotlib>=3.8",
]
EVAL = [
    "faster-coco-eval>=1.6",  # COCO's AP; Apache-2.0, needs NumPy alone
    "motmetrics>=1.4",  # MOTA and IDF1, as poseval itself takes them from it; MIT
]
KERNELS = ["torch>=2.9", "triton>=3.4; platform_system == 'Linux'"]
SUPERVISION = ["supervision>=0.29"]  # 0.29 names the confidences of a KeyPoints as we do
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"]
DEV = [
    *EVAL,
    "coverage>=7.6",
    "hypothesis>=6.100",
    "mypy>=1.13",
    # Older assemblers than Triton's, as older drivers have: tests give them the PTX that we write
    "nvidia-cuda-nvcc-cu12==12.4.*; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "nvidia-cuda-nvcc==13.0.*; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "pandas>=2.2",  # an example puts poses into a data frame
    "psutil>=6",
    "pycocotools>=2.0.8",  # COCO's own AP, to compare ours with
    "pytest>=8.3",
    "ruff>=0.8",
    "setuptools>=77",  # a test builds the wheel
    # NVIDIA's decorators of TensorRT plugins, in pure Python: tests run ours through them without a GPU
    "tensorrt-cu13-bindings>=10.13; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "transformers>=4.48",  # an independent ViTPose to compare ours with
]

setup(
    name="sdtc",
    version=version(),
    description="Video human pose estimation that deploys: SDTC from PyTorch checkpoint to TensorRT engine to poses.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url="https://github.com/sdtc/sdtc",
    project_urls={
        "Source": "https://github.com/sdtc/sdtc",
        "Issues": "https://github.com/sdtc/sdtc/issues",
        "Changelog": "https://github.com/sdtc/sdtc/blob/main/CHANGELOG.md",
    },
    keywords=["human pose estimation", "video", "keypoints", "ViTPose", "PoseTrack", "ONNX", "TensorRT", "Triton"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir=FOLDERS,
    packages=packages(),
    package_data={"sdtc": ["py.typed", "weights/*.pth"], "sdtc.training": ["configs/*.yaml"]},
    install_requires=[
        "numpy>=1.26",
        # OpenCV 5 dropped the people detector that needs no download (HOG), and its warpAffine rounds otherwise than
        # the crop kernel, which equals that of OpenCV 4 to the bit: raise the bound when both agree again
        "opencv-python>=4.9,<5",
        "av>=13.0",
        "tqdm>=4.66",
    ],
    extras_require={
        "cpu": CPU,
        "openvino": OPENVINO,
        "gpu": GPU,
        "gpu-rtx": GPU_RTX,
        "export": EXPORT,
        "train": TRAIN,
        "eval": EVAL,
        "kernels": KERNELS,
        "supervision": SUPERVISION,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "sdtc-infer=sdtc.runtime.cli:main",
            "sdtc-info=sdtc.model.info:main",
            "sdtc-init=sdtc.model.init:main",
            "sdtc-export=sdtc.export.to_trt:main",
            "sdtc-synth=sdtc.synthetic.cli:main",
            "sdtc-train=sdtc.training.cli:main",
            "sdtc-eval=sdtc.evaluation.cli:main",
            "sdtc-visualize=sdtc.visualization.cli:main",
        ]
    },
)
