"""An RTSP server of a blue picture, 20 frames a second, in H.264: rtsp_server.py PORT, by a Python with gi."""

import sys

PICTURE = "videotestsrc is-live=true pattern=blue ! video/x-raw,width=320,height=240,framerate=20/1"


def main(port: str) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server = GstRtspServer.RTSPServer(service=port)
    factory = GstRtspServer.RTSPMediaFactory(shared=True)
    factory.set_launch(f"( {PICTURE} ! x264enc tune=zerolatency key-int-max=10 ! rtph264pay name=pay0 )")
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(sys.argv[1])
