"""TensorFlow anywhere: `tf.while_loop`, one time step after the other."""
