# The study on a CPU. Build: docker build -t memorability .
# Run: docker run --rm -v "$PWD/pictures:/data:ro" -v "$PWD/out:/out" memorability \
#          python run_pipeline.py --data-dir /data --output-path /out --pretrained builtin --image-size 96 \
#          --losses mse mae ssim --weights available
FROM python:3.11-slim

# Results belong to whoever runs it: docker run --user "$(id -u):$(id -g)"
ENV PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/tmp/torch

WORKDIR /study
# PyTorch's CPU builds save 4 GB. If that index lacks the pinned versions, leave the first pip install out.
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir $(grep -E '^torch(vision)?==' constraints.txt) \
        --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY . .

CMD ["python", "run_pipeline.py", "--demo", "--output-path", "/out"]
