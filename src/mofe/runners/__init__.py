"""Runs compiled pipelines: in processes or containers of this machine, or on Kubeflow. No other modules import kfp."""
