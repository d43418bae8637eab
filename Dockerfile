# NOT BUILT HERE: nothing of this project was ever run by Docker. Say in an issue what fails.
#   docker build --build-arg RELEASE=YY.MM-py3 -t modist-fast .     # one whose notes name torch 2.11 or newer
#   docker run --gpus all --ipc host -v DATA:/data -it modist-fast  # the GPU check, into DATA/gpu-check
# NVIDIA's image has torch, Triton, DALI, apex and the two Nsights, built for one another: these stay as they are, and
# what is missing is added.
ARG RELEASE
FROM nvcr.io/nvidia/pytorch:${RELEASE}
WORKDIR /modist-fast
COPY . .
RUN pip list --format freeze | grep -iE '^(torch|torchvision|triton|pytorch-triton|numpy|nvidia-dali[a-z0-9-]*)==' > /image.txt \
 && (python -c 'import nvidia.dali' || pip install --no-cache-dir -c /image.txt nvidia-dali-cuda130) \
 && pip install --no-cache-dir -c /image.txt -e '.[dev]' \
 && (command -v nsys && command -v ncu || (apt-get update && apt-get install -y nsight-systems nsight-compute)) \
 && python -m modist_fast doctor
CMD ["python", "profiling/gpu_check.py", "--out", "/data/gpu-check"]
