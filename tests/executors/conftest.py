import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # workers import executor_jobs by name
