"""What runs a compiled pipeline: this machine, its containers, Kubeflow. The only modules that import kfp."""
