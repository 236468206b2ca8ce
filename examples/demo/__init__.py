"""The parts of `tritone demo`, in their order: models, listening, writing, the page that shows it all."""
