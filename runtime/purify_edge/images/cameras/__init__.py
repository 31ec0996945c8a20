"""Cameras and streams as they are on edge boards: sensors, V4L2, RTSP, GStreamer pipelines, raw frames on a pipe."""
