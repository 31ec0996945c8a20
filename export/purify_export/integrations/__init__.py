"""Files that bring a bundle into other runtimes: DeepStream, trtexec and a program in C++."""
