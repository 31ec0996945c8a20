"""An RTSP server of a blue picture, 20 frames a second, in H.264: rtsp_server.py PORT, by a Python with gi."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURE = "videotestsrc is-live=true pattern=blue ! video/x-raw,width=320,height=240,framerate=20/1"

Gst.init(None)
server = GstRtspServer.RTSPServer(service=sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(shared=True)
factory.set_launch(f"( {PICTURE} ! x264enc tune=zerolatency key-int-max=10 ! rtph264pay name=pay0 )")
server.get_mount_points().add_factory("/camera", factory)
if not server.attach(None):
    sys.exit(f"port {sys.argv[1]} is taken")
print("ready", flush=True)
GLib.MainLoop().run()
