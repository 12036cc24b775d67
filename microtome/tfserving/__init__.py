"""Messages with the wire format of TensorFlow Serving, generated from protos/microtome/tfserving/."""
