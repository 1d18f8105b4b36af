"""DPE for ComfyUI: edit the pose and the expression of people in video, each without touching the other."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES, install_examples, register_model_folder, register_parsing_folder

WEB_DIRECTORY = "./js"

register_model_folder()
register_parsing_folder()
install_examples()


class DPEExtension(ComfyExtension):
    """The pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node, in the order of the graph."""
        return list(NODES)


async def comfy_entrypoint() -> DPEExtension:
    """What the host calls to get the extension."""
    return DPEExtension()
