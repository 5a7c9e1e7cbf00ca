"""Finding MPI and starting ranks; knows neither torch nor MPI."""
