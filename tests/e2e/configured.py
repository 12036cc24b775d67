"""The embedded model server with a configuration file that it polls, as in deploy/."""

import sys

from tests.e2e.processes import ModelServer


class ConfiguredModelServer(ModelServer):
    """Reads `served.config` beside the models directory: not the one within, which exports write again."""

    def words(self) -> list[str]:
        """Flags that TensorFlow Serving has as well, but for the last."""
        return [
            *(sys.executable, "-m", "modelserver"),
            f"--model_config_file={self.models.parent}/served.config",
            "--model_config_file_poll_wait_seconds=1",
            "--allow_version_labels_for_unavailable_models=true",
            "--file_system_poll_wait_seconds=1",
            "--max_num_load_retries=0",
            "--port=0",
            f"--grpc_socket_path={self.socket}",
            "--enable_serialization_as_tensor_content=true",
            "--exit_with_parent=true",
        ]
